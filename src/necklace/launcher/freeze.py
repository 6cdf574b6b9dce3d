"""The last module that the server imports. Importing it makes the imported modules fit to be forked."""

import gc

from hydra.core.plugins import Plugins

from necklace.code_version import git_state
from necklace.run.conditions import versions
from necklace.source_code import read_package

Plugins.instance()  # imports Hydra's own plugins, which are in the state that a job is sent
# Jobs run the code that is imported here, whatever becomes of the files while they wait for their turn.
read_package()
git_state()
versions()
# A garbage collection in a child that looked at these objects would copy every page of them.
gc.collect()
gc.freeze()
gc.enable()
