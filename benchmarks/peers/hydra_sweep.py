"""The trials of `plain_careful` under hydra-optuna-sweeper."""

import careful
import hydra
from omegaconf import DictConfig
from workload import run_trial


@hydra.main(config_path="hydra_conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float:
    return run_trial(config, {name: config[name] for name in ("dropout", "l2", "decay_rate")})


if __name__ == "__main__":
    with careful.sweep_record():
        main()
