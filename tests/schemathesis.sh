#!/usr/bin/env bash
# Runs schemathesis, as pinned in .ci/requirements.txt, against the program on a fresh data folder: no 5xx, no answer
# that openapi.yaml does not know. Ends with 0 only if it found nothing.
#
#   SCHEMATHESIS             the command (default: on PATH, else in target/ci-venv)
#   GRIDGATE_BIN             the program (default: built here)
#   SCHEMATHESIS_EXAMPLES    examples for each operation (default 100)
set -euo pipefail
cd "$(dirname "$0")/.."

schemathesis=${SCHEMATHESIS:-$(command -v schemathesis || echo target/ci-venv/bin/schemathesis)}
if [[ -z ${GRIDGATE_BIN:-} ]]; then
    cargo build --quiet --locked --bin gridgate
    GRIDGATE_BIN=${CARGO_TARGET_DIR:-target}/debug/gridgate
fi

folder=$(mktemp -d)
gateway=
finish() {
    status=$?
    if [[ -n $gateway ]]; then
        kill -TERM "$gateway" 2>/dev/null || true
        wait "$gateway" || status=$?
    fi
    if ((status != 0)) && [[ -s $folder/err ]]; then
        echo '--- the end of the log of the gateway:'
        tail -n 20 "$folder/err"
    fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

GRIDGATE_DATA_DIR=$folder/data GRIDGATE_LISTEN=127.0.0.1:0 GRIDGATE__SERVER__DRAIN_SECS=5 \
    GRIDGATE__SERVER__BODY_IDLE_SECS=5 "$GRIDGATE_BIN" >"$folder/out" 2>"$folder/err" &
gateway=$!
for ((i = 0; i < 1200; i++)); do
    url=$(sed -n 's/^gridgate ready on //p' "$folder/out")
    [[ -z $url ]] || break
    kill -0 "$gateway" || exit 1
    sleep 0.1
done
[[ -n $url ]] || { echo 'the gateway did not get ready' >&2; exit 1; }

# Checks that are left out, and why:
#   positive_data_acceptance     sizes are in bytes and some rules lie beyond JSON Schema (two ends, a length in UTF-8)
#   negative_data_rejection      the body of an upload is any bytes, and a header that cannot be judged is ignored by RFC 9110
cat >"$folder/schemathesis.toml" <<'TOML'
# The bytes of a file need not be what its content type says, and half of a JSON file is none.
[[operations]]
include-operation-id = ["getContent", "getSharedContent"]
checks.response_schema_conformance.enabled = false
# A share that was revoked is kept, and says so.
[[operations]]
include-operation-id = ["getShare", "listShareAccesses", "listShareComments", "revokeShare"]
checks.use_after_free.enabled = false
TOML
# The bodies of appends are bytes under names that schemathesis does not know, and what files hold is not read as what
# their type says, whichever request before led to them: there the settings above are not asked.
cat >"$folder/hooks.py" <<'PYTHON'
import schemathesis
from schemathesis.core import deserialization

for kind in ("application/offset+octet-stream", "application/partial-upload"):
    schemathesis.serializer.alias(kind, "application/octet-stream")

CONTENT = ("/v1/files/{id}/content", "/tus/{id}", "/s/{token}/content")


def unless_content(read):
    def passed_over(ctx, response):
        return "" if response.status_code < 300 and ctx.operation.path in CONTENT else read(ctx, response)

    return passed_over


for kind, read in list(deserialization._DESERIALIZERS.items()):
    schemathesis.deserializer(kind)(unless_content(read))
PYTHON
export SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$folder
timeout 600 "$schemathesis" --config-file "$folder/schemathesis.toml" run openapi.yaml \
    --url "$url" \
    --header "Authorization: Bearer $(cat "$folder/data/admin.key")" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,use_after_free,ensure_resource_availability,ignored_auth \
    --phases examples,coverage,fuzzing,stateful \
    --max-examples "${SCHEMATHESIS_EXAMPLES:-100}" \
    --seed 1 \
    --request-timeout 20 \
    --workers 1
