"""The sweeper and launchers that Hydra finds. Hydra imports every module of this folder at its start."""
