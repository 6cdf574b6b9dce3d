"""The first module that the server imports: what holds for it and for all that is forked from it.

No garbage is collected until the last module, `freeze`, is imported. Freed memory is kept.
"""

import gc

from necklace.allocator import keep_freed_memory

gc.disable()
keep_freed_memory()
