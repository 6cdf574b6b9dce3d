"""The command `necklace`: one verb for each daily task."""

import sys
from importlib import import_module

from necklace.cli.stopping import ENDED, at_once, stoppable

USAGE = """usage: necklace VERB ...

  train key=value ...     train and test one run, or one of each combination with -m
  ablate NAME             run what is missing of a study and write its tables; also plan, table, verify, reproduce, sync
  inspect RUN             draw a finished run's receptive field, gates and confusion matrix
  contexts RUN...         how large the contexts of finished runs' focal layers are, and what of the label reaches the head
  predict RUN IMAGES...   a finished run's predictions for files and folders of images, as CSV or JSON
  export RUN              write a finished run's model for other programs: ONNX, TorchScript or safetensors
  dashboard NAME          save a study's panels as a workspace of its W&B project
  bench WHAT              measure speed: necks, start, train, data, studies, slots, peer, records, gates or loader

Each verb explains itself with --help. Inside a checkout, python train.py and python ablate.py are the first two."""


# Verb to its module: commands that begin anew when they have been stopped.
OTHERS = {
    "inspect": "inspection",
    "contexts": "contexts",
    "predict": "prediction",
    "export": "export",
    "dashboard": "dashboard",
    "bench": "bench",
}


def main() -> None:
    """Carry out the verb; the others are not imported."""
    verb, *arguments = sys.argv[1:] or [""]
    if verb in ("-h", "--help"):
        print(USAGE)
    elif verb == "train":
        with at_once():  # until there is something to stop in good order
            from necklace.cli import train

            train.command(arguments)
    elif verb == "ablate":
        with at_once():
            from necklace.cli import ablate

            ablate.main(arguments)
    elif verb in OTHERS:
        with at_once(ENDED):
            command = import_module(f"necklace.cli.{OTHERS[verb]}")
        with stoppable(ENDED):
            command.main(arguments)
    else:
        sys.exit(f"{USAGE}\n\nerror: {verb or 'no verb'}: must be one of {', '.join(('train', 'ablate', *OTHERS))}")


if __name__ == "__main__":
    main()
