"""Python imports this module at start when its folder is in PYTHONPATH, in Ray's workers too."""

import openrlhf_on_cpu

openrlhf_on_cpu.install()
