#!/usr/bin/env bash
# Prepares, once, what `make bench` needs beyond `make setup-kafka`: a separate environment for contenders with other dependencies
# (with .venv's packages as a fallback), and the Kafka Streams contender, built by Maven (JDK 17).
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf '\033[1m[bench]\033[0m %s\n' "$*"; }

environment=build/bench
if [ ! -e "$environment/.complete" ]; then
  uv=.venv/bin/uv
  [ -x "$uv" ] || uv=$(command -v uv) || { .venv/bin/python -m pip install --quiet uv; uv=.venv/bin/uv; }
  say "installing Quix Streams and confluent-kafka into $environment"
  "$uv" venv --quiet --clear "$environment" --python .venv/bin/python
  "$uv" pip install --quiet --python "$environment/bin/python" quixstreams==3.28.1 confluent-kafka==2.12.2 rocksdict==0.3.29
  packages=$(echo "$PWD"/.venv/lib/python3.*/site-packages)
  echo "$packages" > "$(echo "$environment"/lib/python3.*/site-packages)/isthmus.pth"
  touch "$environment/.complete"
fi

source=tests/benchmarks/kafka_streams
stamp=build/kafka_streams/.complete-$(cat "$source"/pom.xml "$source"/src/main/java/isthmus/*.java | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  if ! command -v javac >/dev/null; then
    root=""
    [ "$(id -u)" = 0 ] || root="sudo -n"
    say "installing openjdk-17-jdk-headless from Debian's packages"
    $root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends openjdk-17-jdk-headless >/dev/null
  fi
  say "building the Kafka Streams contender (230 MB of jars, once)"
  if mvn -q -B -f "$source/pom.xml" clean package; then touch "$stamp"; else say "SKIPPED: Kafka Streams will have no rows"; fi
fi
