#!/bin/sh
# Fetches axe-core, by which the browser tests check accessibility, into the cache; where it cannot be had, each test that
# asks for it is skipped once all else in it has passed, with the reason printed. Only the file with this very checksum
# is used.
set -u
version=4.10.3
file_sum=880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb
folder="${XDG_CACHE_HOME:-$HOME/.cache}/dinm-inspector"
file="$folder/axe-$version.min.js"
fits() { [ -f "$1" ] && [ "$(${PYTHON:-python3} -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1")" = "$file_sum" ]; }
fits "$file" && exit 0
mkdir -p "$folder"
${PYTHON:-python3} - "$version" "$file.part" <<'PROGRAM'
import io, sys, tarfile, urllib.request

version, path = sys.argv[1:]
try:
    address = f"https://registry.npmjs.org/axe-core/-/axe-core-{version}.tgz"
    with urllib.request.urlopen(address, timeout=60) as answer:
        packed = tarfile.open(fileobj=io.BytesIO(answer.read()))
    content = packed.extractfile("package/axe.min.js").read()
except (OSError, tarfile.TarError, KeyError) as error:
    sys.exit(f"axe-core could not be fetched: {error}")
with open(path, "wb") as file:
    file.write(content)
PROGRAM
if fits "$file.part"; then
    mv "$file.part" "$file"
else
    rm -f "$file.part"
    echo "No axe-core: the tests of accessibility will be skipped. Put axe-core $version's axe.min.js at $file."
fi
exit 0
