"""Halves the start of every process that reads a notebook, by skipping one import nobody here needs.

jsonschema tries to import `rfc3987_syntax` (checks of IRI formats), which builds a grammar for 1.6 s. The
package is optional to it, so None in `sys.modules` ("cannot be imported") is a clean way to say no. This must
happen before nbformat is imported: pytest loads this module as an early plugin (`-p pipeline.fastimport`), as nbval
is imported before any conftest.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
