#!/usr/bin/env bash
# SA-GRPO with OpenRLHF 0.11.2: recipes/grpo.sh MODEL [--dry-run] [flags]. --help lists the settings.
set -eu
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python}" "$folder/launch" grpo "$@"
