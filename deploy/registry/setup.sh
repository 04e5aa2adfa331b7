#!/usr/bin/env bash
# Fetches the schema registry of the tests, Apicurio Registry, into build/registry with Maven, once (142 MB). Needs java and mvn.
# `make setup-kafka` runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=build/registry
[ ! -e "$folder/.complete" ] || exit 0
version=2.6.13.Final
mkdir -p "$folder"
mvn -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
  "-Dartifact=io.apicurio:apicurio-registry-app:$version:tar.gz:all" "-DoutputDirectory=$PWD/$folder"
tar -xzf "$folder/apicurio-registry-app-$version-all.tar.gz" -C "$folder"
rm "$folder/apicurio-registry-app-$version-all.tar.gz"
touch "$folder/.complete"
