"""`python -m fgvc_hf.cli`, the same as `fgvc-hf`."""

import sys

from .main import main


sys.exit(main())
