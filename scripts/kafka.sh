#!/bin/sh
# Fetches the jars of Apache Kafka through Maven into headwater's cache, once.
# HEADWATER_KAFKA_LIBS names another directory of jars to use instead.
set -eu

scripts=$(cd "$(dirname "$0")" && pwd)
version=4.1.0
home="${XDG_CACHE_HOME:-$HOME/.cache}/headwater/kafka-$version"

if [ -n "${HEADWATER_KAFKA_LIBS:-}" ]; then
    [ -d "$HEADWATER_KAFKA_LIBS" ] && exit 0
    echo "kafka: HEADWATER_KAFKA_LIBS=$HEADWATER_KAFKA_LIBS is not a directory" >&2
    exit 1
fi
[ -d "$home/libs" ] && exit 0

mkdir -p "$home"
# Fetched beside its place and then renamed, so that an interrupted fetch is never taken for a whole one.
fetched=$(mktemp -d "$home/fetch.XXXXXX")
trap 'rm -rf "$fetched"' EXIT
trap 'exit 130' INT TERM
echo "kafka: fetching the jars of Apache Kafka $version (43 MB) through Maven" >&2
tries=3
while ! mvn --quiet --batch-mode -f "$scripts/kafka-pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$fetched/libs" </dev/null; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
        echo "kafka: Maven could not fetch the jars; where there is a mirror, name it in ~/.m2/settings.xml," >&2
        echo "kafka: or set HEADWATER_KAFKA_LIBS to a directory with the jars of a Kafka distribution" >&2
        exit 1
    fi
    echo "kafka: trying again" >&2
done
# Loses the race to another fetch in silence: then the jars are there, which is all that was wanted.
[ -d "$home/libs" ] || mv -T "$fetched/libs" "$home/libs" 2>/dev/null || [ -d "$home/libs" ]
