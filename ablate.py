"""A study, from plan to table: python ablate.py NAME, for what experiments/NAME/study.yaml asks."""

import signal

# Until there is something to stop in good order, Ctrl-C ends this process without a traceback out of its imports.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from necklace.cli.ablate import main

if __name__ == "__main__":
    main()
