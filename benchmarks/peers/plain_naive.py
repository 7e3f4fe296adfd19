"""Optuna, Keras and MLflow, combined as a user in a hurry would: everything anew in each trial, and each model kept."""

from pathlib import Path

import keras
import mlflow
import numpy as np
import optuna
from network import build_network
from workload import BATCH_SIZE, STARTUP_TRIALS, note_trial, parse_arguments, suggest_params

arguments = parse_arguments()


def load_images():
    """Return training and validation images for `fit`, pixels in 0 to 1, and the number of training images."""
    if arguments.data.endswith(".npz"):
        data = np.load(arguments.data)
        train, val = ((data[f"{split}_x"] / np.float32(255), data[f"{split}_y"][:, None]) for split in ("train", "val"))
        return {"x": train[0], "y": train[1], "batch_size": BATCH_SIZE, "validation_data": val}, len(train[0])
    options = {"label_mode": "binary", "image_size": (arguments.size, arguments.size), "batch_size": BATCH_SIZE}
    train, val = (
        keras.utils.image_dataset_from_directory(Path(arguments.data, split), **options) for split in ("train", "val")
    )
    scaled = [images.map(lambda x, y: (x / 255.0, y)) for images in (train, val)]
    return {"x": scaled[0], "validation_data": scaled[1]}, len(train.file_paths)


def run_trial(trial: optuna.Trial) -> float:
    params = suggest_params(trial)
    with mlflow.start_run():
        mlflow.log_params(params)
        keras.utils.set_random_seed(arguments.seed)
        images, num_images = load_images()
        shape = (arguments.size, arguments.size, 1 if arguments.data.endswith(".npz") else 3)
        model = build_network(shape, -(-num_images // BATCH_SIZE), **params)
        history = model.fit(**images, epochs=arguments.epochs)
        for name, values in history.history.items():
            for epoch, value in enumerate(values):
                mlflow.log_metric(name, value, step=epoch)
        mlflow.keras.log_model(model, name="model")
    best = min(history.history["val_log_loss"])
    note_trial(arguments.notes, best)
    return best


mlflow.set_tracking_uri("sqlite:///mlflow.db")
sampler = optuna.samplers.TPESampler(seed=arguments.seed, n_startup_trials=STARTUP_TRIALS)
study = optuna.create_study(storage="sqlite:///optuna.db", sampler=sampler)
study.optimize(run_trial, n_trials=arguments.trials)
