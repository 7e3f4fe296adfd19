"""What Hydra finds of cnn-sweeps: a sweeper and a launcher. Hydra imports every module here at start."""
