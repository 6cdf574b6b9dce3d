"""Train and test one run, or one of each combination with -m: python train.py neck=focal."""

from necklace.cli.train import main

if __name__ == "__main__":
    main()
