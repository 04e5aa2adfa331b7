#!/usr/bin/env bash
# Fetches the jars of the local Kafka broker into build/kafka with Maven, once, and archives the classes that the broker loads. Needs
# java and mvn. `make setup-kafka` runs it, and so does `isthmus demo --kafka` where the jars are missing. PYTHON has Isthmus.
set -euo pipefail
cd "$(dirname "$0")/../.."
jars=build/kafka
if [ ! -e "$jars/.complete" ]; then
  mvn -B -f deploy/kafka/pom.xml dependency:copy-dependencies "-DoutputDirectory=$PWD/$jars"
  touch "$jars/.complete"
fi
if [ ! -e "$jars/classes.jsa" ]; then
  "${PYTHON:-.venv/bin/python}" -c 'from stream.kafka.cluster.local_broker import archive_classes; archive_classes()' ||
    echo "the broker's classes could not be archived: a local broker starts more slowly, that is all"
fi
