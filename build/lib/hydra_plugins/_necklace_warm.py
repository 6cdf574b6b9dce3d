"""The last of what the server imports that cells are forked from: it makes the imported modules fit to be forked."""

import gc

from hydra.core.plugins import Plugins

from necklace.cell import code_digest, git_state

Plugins.instance()  # imports Hydra's own plugins, which are in the state that a cell is sent
# What cells run is the code that is imported here, whatever becomes of the files while they wait for their turn.
code_digest({})
git_state()
# A child's garbage collector that looked at what is here would copy every page of it.
gc.collect()
gc.freeze()
