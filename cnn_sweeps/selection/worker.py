"""The slow imports of a worker, before its first trial."""

from cnn_sweeps.system.libraries import slow_imports

with slow_imports():
    try:
        import cnn_sweeps.experiment.part  # noqa: F401 - and with it TensorFlow and MLflow
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error  # the first trial meets it again
