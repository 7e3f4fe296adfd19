"""What Hydra finds of cnn-sweeps: a sweeper and launchers. Hydra imports every module here at start."""
