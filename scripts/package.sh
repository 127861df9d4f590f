#!/bin/sh
# Makes what is released, from a built binary: dist/headwater-VERSION-ARCH-linux.tar.gz, and the Debian package
# dist/headwater_VERSION_ARCH.deb with unit, configurations, man pages and completions inside.
#
#   scripts/package.sh BINARY [DIRECTORY]     DIRECTORY is dist unless given
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
binary=${1:?"usage: scripts/package.sh BINARY [DIRECTORY]"}
dist=${2:-$root/dist}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
arch=$(dpkg --print-architecture)

# The same times in every run, so that the same sources make the same archive.
stamp=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH="$stamp"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree="$work/headwater"

put() { install -D -m "$1" "$2" "$tree/$3"; }

put 755 "$binary" usr/bin/headwater
strip --strip-unneeded "$tree/usr/bin/headwater"
put 755 "$root/deploy/systemd/headwater-as" usr/bin/headwater-as
put 644 "$root/deploy/systemd/headwater@.service" lib/systemd/system/headwater@.service
for file in "$root"/configs/*.yml; do put 644 "$file" "etc/headwater/$(basename "$file")"; done
for file in "$root"/configs/schemas/*; do put 644 "$file" "etc/headwater/schemas/$(basename "$file")"; done
install -d -m 700 "$tree/etc/headwater/credentials"
put 644 "$root/configs/example.env" usr/share/doc/headwater/example.env
put 644 "$root/README.md" usr/share/doc/headwater/README.md
# What the README links to, where it links to it.
for file in "$root"/docs/*; do put 644 "$file" "usr/share/doc/headwater/docs/$(basename "$file")"; done
ln -s ../../../../etc/headwater "$tree/usr/share/doc/headwater/configs"
for file in "$root"/db/source/*.sql; do put 644 "$file" "usr/share/doc/headwater/source/$(basename "$file")"; done
put 644 "$root/deploy/prometheus/alerts.yml" usr/share/headwater/prometheus/alerts.yml
put 644 "$root/deploy/grafana/dashboards/headwater.json" usr/share/headwater/grafana/headwater.json
{
    echo "Headwater. Either licence, as you choose."
    for licence in MIT APACHE; do
        echo
        cat "$root/LICENSE-$licence"
    done
} > "$work/copyright"
put 644 "$work/copyright" usr/share/doc/headwater/copyright
"$binary" man "$tree/usr/share/man/man1"
gzip -9n "$tree"/usr/share/man/man1/*.1
"$binary" completions bash > "$work/bash"
put 644 "$work/bash" usr/share/bash-completion/completions/headwater
"$binary" completions zsh > "$work/zsh"
put 644 "$work/zsh" usr/share/zsh/vendor-completions/_headwater
"$binary" completions fish > "$work/fish"
put 644 "$work/fish" usr/share/fish/vendor_completions.d/headwater.fish

mkdir -p "$dist"
archive="headwater-$version-$arch-linux.tar.gz"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" -cf - headwater | gzip -n > "$dist/$archive"

# What the binary is linked with, by the packages of this Debian.
mkdir -p "$work/debian" "$tree/DEBIAN"
printf 'Source: headwater\n\nPackage: headwater\nArchitecture: any\n' > "$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "$tree/usr/bin/headwater" | sed -n 's/^shlibs:Depends=//p')
cat > "$tree/DEBIAN/control" <<CONTROL
Package: headwater
Version: $version
Architecture: $arch
Maintainer: The founders of Headwater <headwater@localhost>
Installed-Size: $(du -sk "$tree" | cut -f1)
Depends: $depends, ca-certificates
Recommends: systemd
Section: database
Priority: optional
Description: change-data-capture and analytics bridge for PostgreSQL
 Carries PostgreSQL rows through Kafka into a date-partitioned lake, each row
 version once, and windows over streams back into PostgreSQL.
CONTROL
(cd "$tree" && find etc -type f | sed 's|^|/|' | sort) > "$tree/DEBIAN/conffiles"
(cd "$tree" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) > "$tree/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$tree" "$dist/headwater_${version}_$arch.deb" > /dev/null

for file in "$archive" "headwater_${version}_$arch.deb"; do
    (cd "$dist" && sha256sum "$file" > "$file.sha256" && echo "$dist/$file  $(du -h "$file" | cut -f1)")
done
