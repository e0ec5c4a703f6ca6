#!/usr/bin/env bash
# SA-PPO with OpenRLHF 0.11.2: recipes/ppo.sh MODEL [--dry-run] [flags]. --help lists the settings.
set -eu
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python}" "$folder/launch" ppo "$@"
