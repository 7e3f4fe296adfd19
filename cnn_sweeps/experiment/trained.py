"""Measures, records and draws a trained network."""

from dataclasses import dataclass

from cnn_sweeps.errors import UserError, describe_error
from cnn_sweeps.evaluation import results, texts
from cnn_sweeps.evaluation.results import Evaluation, Predict
from cnn_sweeps.experiment.parts import RESULTS, Part
from cnn_sweeps.models.layers import plain_copy
from cnn_sweeps.sweep.jobs.loss import is_out_of_memory
from cnn_sweeps.system.files import is_disk_full
from cnn_sweeps.system.libraries import saying
from cnn_sweeps.tracking import models
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.training.network import Network
from cnn_sweeps.training.progress import TrainingProgress


@dataclass(frozen=True)
class TrainedNetwork:
    """A finished training."""

    part: Part  # its settings and images; without test images in a sweep
    network: Network  # with its final weights
    predict: Predict
    progress: TrainingProgress  # what the epochs measured
    record: Record  # of its run

    @property
    def kept_epoch(self) -> int:
        """The epoch, counted from 1, whose weights the network has."""
        is_best = self.part.config.training.restore_best_weights
        return self.progress.best_epoch if is_best else self.progress.epochs_done

    def evaluate(self, *, on_test: bool) -> tuple[Evaluation, dict[str, float]]:
        """Measure validation images and, if asked, test images; return the evaluation and all final metrics."""
        final = results.describe_training(self.network.whole, self.progress, self.kept_epoch)
        images = self.part.images
        evaluation = results.evaluate(self.predict, images.dataset, images.split, self.part.config, on_test=on_test)
        return evaluation, final | evaluation.metrics

    def measure_train(self, final: dict[str, float]) -> dict[str, float]:
        """Return the final metrics with those on training images and the generalization gap."""
        val_log_loss = final["final_val_log_loss"]
        threshold, images = final.get("decision_threshold"), self.part.images
        return final | results.evaluate_on_train(self.predict, images.dataset, images.split, threshold, val_log_loss)

    def log_outcome(self, evaluation: Evaluation, of_parts: str = "", chosen: str = "") -> None:
        """Put the results at the top of the run's description, after what it was `chosen` for, if it was.

        Of several trainings, `of_parts` replaces the validation results.
        """
        of_epoch = f"epoch {self.kept_epoch} of {self.progress.epochs_done}"
        validation = evaluation.validation.describe(with_intervals=False)
        test = "" if evaluation.test is None else f"**Test images**: {evaluation.test.describe()}"
        lines = [chosen, test, of_parts or f"**Validation images**: {validation}; {of_epoch}"]
        self.record.log_outcome(*filter(None, lines))

    def keep_per_image(self, evaluation: Evaluation) -> None:
        """Write and record the results for each evaluated image."""
        self.record.log_files(texts.write_per_image(self.record.folder / RESULTS, evaluation))

    def report(self, evaluation: Evaluation) -> list[str]:
        """Write and record texts, pictures and the report page; return what failed."""
        with saying("drawing pictures and writing the report; this takes some seconds"):
            from cnn_sweeps.experiment.written import write_results  # Jinja, matplotlib

            return write_results(self.record, self.part, self.network.whole, evaluation, self.progress, self.kept_epoch)

    def log_model(self, threshold: float | None) -> list[str]:
        """Keep the network as a model of standard layers; `threshold` is the decision threshold of two classes.

        Return a warning if it cannot be kept as one that loads by itself; then only its weights are kept.

        Raises:
            DiskError: if the disk is full.
        """
        dataset, train = self.part.images.dataset, self.part.images.split.train
        about = models.ModelFacts(tuple(dataset.class_names), dataset.image_shape, threshold, "0 to 255")
        try:
            name = f"{dataset.name}-{self.part.network_name}"
            models.log_model(self.record, name, plain_copy(self.network.whole), about, dataset.images[train[:1]])
        except UserError:
            raise
        except Exception as error:  # a user's own layer may make Keras raise anything
            if is_disk_full(error) or is_out_of_memory(error):
                raise
            weights = self.record.folder / RESULTS / "final.weights.h5"
            weights.parent.mkdir(parents=True, exist_ok=True)
            self.network.whole.save_weights(weights)
            self.record.log_files([weights])
            return [
                f"the network cannot be kept as a model that loads by itself ({describe_error(error)}); its weights "
                f"are in {weights}; build the network with your code and call `load_weights`"
            ]
        return []
