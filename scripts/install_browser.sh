#!/bin/sh
# Installs Debian's chromium for the browser tests where that is possible; they are skipped, with the reason
# printed, where it is not.
set -u
if command -v chromium >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing chromium for the browser tests"
    if { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/tmp/install_browser.log 2>&1; then
        exit 0
    fi
    tail -n 3 /tmp/install_browser.log
fi
echo "No chromium: the browser tests will be skipped. Install it (apt-get install chromium) or set CHROMIUM=/path/to/it."
exit 0
