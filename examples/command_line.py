"""Which units of a GRU hold three bits? Everything is in the configuration file.

    python examples/command_line.py fit --config examples/memory_task.yaml

Then analyse a checkpoint again, with options of your own:

    cd lightning_logs/version_0
    python -m lightning_relay analyse --config config.yaml --ckpt_path checkpoints/*.ckpt
"""

from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI()
