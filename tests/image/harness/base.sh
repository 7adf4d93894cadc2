#!/usr/bin/env bash
# Makes the file system of a stand-in for python:3.11-slim-bookworm, where no image registry can be reached: a minimal
# Debian with this machine's CPython in /usr/local, where the official image has its own.   usage: base.sh FOLDER
# Needs root and debootstrap.
set -euo pipefail
root=$1
# What CPython's extension modules are linked with.
libraries=ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g
libraries+=,libncursesw6,libuuid1,libexpat1,libgdbm6,libdb5.3,libnsl2,libtirpc3
debootstrap --variant=minbase --include="$libraries" bookworm "$root"

# As the official image is delivered: no package lists, no downloads, no manuals, nothing of the builder's own.
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
: > "$root/etc/resolv.conf"
rm -f "$root/etc/hostname"

prefix=$(python3 -c 'import sys; print(sys.base_prefix)')
minor=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
tar -C "$prefix" --exclude='site-packages/*' --exclude='lib/python*/test' --exclude='lib/python*/config-*' \
    --exclude=__pycache__ --exclude='*tkinter*' --exclude='*.a' -c "lib/python$minor" "bin/python$minor" |
    tar -x -C "$root/usr/local"
for shared in "$prefix"/lib/libpython*.so*; do
    [ -e "$shared" ] && cp -a "$shared" "$root/usr/local/lib/"
done
ln -s "python$minor" "$root/usr/local/bin/python3"
ln -s python3 "$root/usr/local/bin/python"
chroot "$root" ldconfig
inside() { chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1 "$@"; }
inside python3 -m ensurepip --default-pip >/dev/null 2>&1
inside python3 -c 'import bz2, ctypes, lzma, readline, sqlite3, ssl, sys; print(sys.version)'
