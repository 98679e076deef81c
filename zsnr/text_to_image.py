"""The old name of `python -m zsnr.finetune`, kept for one release."""

import sys

from zsnr.finetune.__main__ import main

if __name__ == "__main__":
    print("python -m zsnr.text_to_image is now python -m zsnr.finetune; it goes with the next release", file=sys.stderr)
    main()
