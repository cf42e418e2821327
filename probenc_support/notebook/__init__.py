"""What runs inside a notebook: its parameters, its results, its figures, its verdicts.

Every notebook imports this before anything else of the package. Nothing outside of this folder
imports it.
"""

import warnings

# transformers and others import tqdm's bars for notebooks, which remark on a page without widgets
# that they find none. The book shows figures and no bars, so the remark would stand there alone.
warnings.filterwarnings("ignore", message="IProgress not found")
