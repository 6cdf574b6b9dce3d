"""The first module that the server imports: garbage is collected after the last one, see `freeze`, and not in between."""

import gc

gc.disable()
