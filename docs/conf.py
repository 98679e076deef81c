"""The site: `make site` builds it from docs/, the README, the docstrings and the notebooks as they were last executed.

Nothing is executed, and no page needs a network: MathJax comes from a package, fonts are the reader's own.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
MATHJAX = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0], "static/mathjax/tex-svg-full.js")

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

project = "zsnr"
html_title = "zsnr"
copyright = "the zsnr authors"
html_show_sphinx = html_show_sourcelink = html_copy_source = False
root_doc = "docs/index"
include_patterns = ["README.md", "docs/**.md", "notebooks/**.ipynb", "benchmarks/results/*.md"]
exclude_patterns = [".*", "build", "results", "scratch", "dvcstore", "data", "**.failed.ipynb", "**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
extensions += ["site_pages", "site_docstrings"]

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static", str(MATHJAX)]
html_css_files = ["site.css"]
mathjax_path = MATHJAX.name
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would load more

highlight_language = "text"
nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
nb_code_prompt_show, nb_code_prompt_hide = "Code", "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
