#!/bin/sh
# Makes one virtual environment that holds the loaders of vLLM and SGLang, without kernels, for a machine without a GPU.
#
#   install.sh VENV [PYTHON]
#
# Exit code 0 with VENV/installed, or 1 with the reason in VENV/unavailable: its last line is what the tests show when they
# are skipped.  A second run tries again what the first could not do.
set -u
vllm=0.33.0
sglang=0.5.23
venv=$1
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)
log=$venv/install.log

step() { # step WHAT COMMAND...: runs the command, or ends with the reason why it failed
  what=$1
  shift
  echo "$what …"
  "$@" >>"$log" 2>&1 && return
  { tail -n 20 "$log"; echo "$what failed: $(grep -i '^error' "$log" | tail -n 1)"; } | tee "$venv/unavailable" >&2
  exit 1
}

vllm_from_source() (
  # The wheel on the index is built for CUDA.  From the source distribution, target "empty" builds no kernels, and a
  # version that ends in "+cpu" makes vLLM choose its CPU platform (vllm/platforms/__init__.py).  pip refuses a download whose
  # metadata names another version than its file, so the suffix comes with the second command only.
  set -e
  folder=$(mktemp -d "$venv/vllm.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  export VLLM_TARGET_DEVICE=empty CARGO=/bin/false
  VLLM_VERSION_OVERRIDE=$vllm pip download -q --no-deps --no-build-isolation --no-binary vllm -d "$folder" "vllm==$vllm"
  tar -xzf "$folder/vllm-$vllm.tar.gz" -C "$folder"
  VLLM_VERSION_OVERRIDE=$vllm+cpu pip install -q --no-deps --no-build-isolation "$folder/vllm-$vllm"
)

mkdir -p "$venv" && venv=$(cd "$venv" && pwd) || exit 1
log=$venv/install.log
rm -f "$venv/unavailable" "$venv/installed"
: >"$log"
step "python -m venv" "$python" -m venv "$venv"
PATH=$venv/bin:$PATH
export PIP_DISABLE_PIP_VERSION_CHECK=1
step "installing torch" pip install -q torch==2.13.0
step "installing what the engines import" pip install -q -r "$here/requirements.txt"
# Their own requirements name CUDA builds: they come alone.
step "installing SGLang $sglang" pip install -q --no-deps xgrammar==0.2.8 "sglang==$sglang"
step "installing vLLM $vllm" vllm_from_source
step "importing torch and transformers" python -c "import torch, transformers"
touch "$venv/installed"
