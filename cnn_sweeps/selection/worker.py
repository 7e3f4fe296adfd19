"""What takes a worker seconds to import, before its first trial comes."""

from cnn_sweeps.system.libraries import slow_imports

with slow_imports():
    try:
        import cnn_sweeps.experiment.part  # noqa: F401 - and with it TensorFlow and MLflow
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error  # the first trial meets it again, and tells it
