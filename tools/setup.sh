#!/usr/bin/env bash
# Makes the environment in $VENV, step by step. A finished step is not done again, an interrupted one is taken up again:
# $VENV/.mmgkd holds one log and one stamp per step. A stamp names what the step was made from and what it installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
python_asked=${PYTHON_ASKED:-}
venv=${VENV:-.venv}
venv_python=$venv/bin/python
state=$venv/.mmgkd
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'setup: %s\n' "$@"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }


# ---- checks before anything is written

minor_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

supported() { case $1 in 3.10 | 3.11 | 3.12) ;; *) return 1 ;; esac; }

check_python() {
    command -v "$python" >/dev/null || die "PYTHON=$python: there is no such command." \
        "Install Python 3.10, 3.11 or 3.12, or name one: make setup PYTHON=/path/to/python3.11"
    local wanted found
    wanted=$(minor_version "$python") || die "PYTHON=$python does not run."
    if [ -e "$venv_python" ] || [ -L "$venv_python" ]; then
        found=$(minor_version "$venv_python" 2>/dev/null) || die \
            "$venv_python does not run: the Python that $venv was made with is gone." \
            "Remove the environment and make it anew: rm -r $venv && make setup"
        if [ -n "$python_asked" ] && [ "$found" != "$wanted" ]; then
            die "PYTHON=$python is Python $wanted, but $venv was made with Python $found." \
                "Either keep both:          make setup PYTHON=$python VENV=.venv-$wanted" \
                "or replace the old one:    rm -r $venv && make setup PYTHON=$python" \
                "or stay with Python $found: leave PYTHON out."
        fi
        supported "$found" || die "$venv has Python $found; mmgkd needs Python 3.10, 3.11 or 3.12." \
            "Make another environment: make setup PYTHON=python3.11 VENV=.venv-3.11"
        return
    fi
    supported "$wanted" || {
        local others='' name
        for name in python3.11 python3.12 python3.10; do
            "$name" -c '' 2>/dev/null && others+=" $name"
        done
        die "mmgkd needs Python 3.10, 3.11 or 3.12; $python is Python $wanted." \
            "Name another one: make setup PYTHON=python3.11   (found on this machine:${others:- none})"
    }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || die "$python cannot make environments: its venv module is missing." \
        "On Debian and Ubuntu: apt install python$wanted-venv"
}

check_compiler() {  # mmcv's operators are compiled against torch and Python
    command -v "${CXX:-c++}" >/dev/null || die "There is no C++ compiler (looked for ${CXX:-c++}); mmcv's operators are compiled with it." \
        "Debian, Ubuntu: apt install build-essential     Fedora: dnf install gcc-c++     macOS: xcode-select --install"
    local include
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$include/Python.h" ] || die "Python's C headers are missing (looked for $include/Python.h); mmcv's operators need them." \
        "Debian, Ubuntu: apt install python$(minor_version "$python")-dev     Fedora: dnf install python3-devel"
}


# ---- running one step

job=''
stop() {
    trap - INT TERM HUP
    [ -z "$job" ] || kill -TERM -- "-$job" 2>/dev/null || true
    say "interrupted; the next run goes on from here." >&2
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

installed() {  # "torch=2.13.0+cpu ..." of the distributions named
    "$venv_python" - "$@" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(f'{name}={version(name)}', end=' ')
    except PackageNotFoundError:
        print(f'{name}=none', end=' ')
PY
}

key() { printf '%s\n' "$@" | cat - constraints.txt | cksum | tr ' ' '-'; }

step() {  # name, stamp, what it does and how long it takes, function
    local name=$1 stamp=$2 what=$3 run=$4
    local log=$state/$name.log start=$SECONDS next=15
    say "$what"
    printf '%s\n' "$what" >"$log"
    set -m  # a process group of its own, so that an interruption ends pip, ninja and the compilers as well
    "$run" >>"$log" 2>&1 </dev/null &
    job=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - start >= next)); then
            next=$((next + 15))
            # ninja counts the files: "[12/85] c++ ..."
            say "    $((SECONDS - start)) s $(grep -oE '\[[0-9]+/[0-9]+\]' "$log" | tail -n 1 || true)"
        fi
    done
    if ! wait "$job"; then
        job=''
        tail -n 30 "$log" >&2
        die "this step failed: $what" "The lines above end its log, $log. Once mended, 'make setup' goes on with this step."
    fi
    job=''
    $stamp >"$state/$name.done"
    say "    done in $((SECONDS - start)) s"
}

done_before() { [ -e "$state/$1.done" ] && [ "$(cat "$state/$1.done")" = "$($2)" ]; }

once() { done_before "$1" "$2" || step "$@"; }


# ---- the steps: for each a stamp and the work

pip_install() { "$venv_python" -m pip install --progress-bar off -c constraints.txt "$@"; }

make_venv() {
    "$venv_python" -m pip --version && return
    if [ -e "$venv/bin/activate" ]; then
        "$venv_python" -m ensurepip
    else
        "$python" -m venv "$venv"
    fi
}
venv_stamp() { minor_version "$venv_python" 2>/dev/null; }

tools_stamp() { key tools; installed setuptools wheel ninja packaging psutil numpy; }
install_tools() { pip_install setuptools wheel ninja packaging psutil numpy; }

torch_stamp() { key torch; installed torch; }
install_torch() { pip_install torch; }

openmmlab_stamp() { key openmmlab; installed onedl-mmengine onedl-mmdetection; }
install_openmmlab() {
    pip_install onedl-mmengine onedl-mmdetection
    # A machine without a screen often lacks libGL. The headless OpenCV does without; whichever is installed last counts.
    "$venv_python" -c 'import cv2' || pip_install --force-reinstall --no-deps opencv-python-headless
}

mmcv_stamp() { key mmcv "$operators" "$cuda_home"; installed torch onedl-mmcv; }
install_mmcv() {
    export MAX_JOBS=${MAX_JOBS:-$(compile_jobs)} MMCV_WITH_OPS=1
    if [ "$operators" = cuda ]; then
        export FORCE_CUDA=1 CUDA_HOME=$cuda_home
    else  # without a visible GPU mmcv does not look for nvcc
        export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
    fi
    pip_install --verbose --no-build-isolation onedl-mmcv
    # pip keeps compiled wheels, and does not know which torch they were compiled against.
    operators_work || {
        echo 'The operators do not work with this torch; compiling them again.'
        pip_install --verbose --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv
        operators_work
    }
}
operators_work() {
    "$venv_python" - "$operators" <<'PY'
import sys

import torch
from mmcv.ops import get_compiling_cuda_version, nms

device = sys.argv[1]
if device == 'cuda' and get_compiling_cuda_version() == 'not available':
    sys.exit('mmcv was compiled without CUDA')
boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], device=device)
kept = nms(boxes, torch.tensor([.9, .8, .7], device=device), .5)[1].tolist()
if kept != [0, 2]:
    sys.exit(f'mmcv.ops.nms kept boxes {kept} where [0, 2] was expected')
PY
}
compile_jobs() {  # one compiler takes up to 2 GiB
    "$venv_python" - <<'PY'
import os
import psutil
print(max(1, min(os.cpu_count(), psutil.virtual_memory().available // 2**31)))
PY
}

package_stamp() { key package "$PWD" "$(cat setup.py mmgkd/version.py)"; installed mmgkd pytest pytest-xdist ruff scikit-learn; }
install_package() {
    pip_install --no-build-isolation -e '.[demo,test]'
    "$venv_python" -c 'from mmgkd.installation import installed; print(installed())'  # importing mmgkd checks it
}


# ---- which of mmcv's operators: cuda where torch, a GPU and a fitting nvcc are there, else cpu

operators=cpu
cuda_home=''
remark=()

torch_cuda() {
    "$venv_python" -c 'import importlib.util as u, os.path as p, runpy
print(runpy.run_path(p.join(p.dirname(u.find_spec("torch").origin), "version.py"))["cuda"] or "")'
}

choose_operators() {
    local cuda nvcc='' version='' place
    cuda=$(torch_cuda)
    case ${CUDA_VISIBLE_DEVICES-all} in '' | -1) return ;; esac
    [ -n "$cuda" ] && command -v nvidia-smi >/dev/null || return 0
    nvidia-smi -L 2>/dev/null | grep -q '^GPU' || return 0
    for place in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "$(dirname "$(dirname "$(command -v nvcc || echo /none/bin/nvcc)")")" /usr/local/cuda; do
        [ -n "$place" ] && [ -x "$place/bin/nvcc" ] && { nvcc=$place/bin/nvcc; break; }
    done
    [ -z "$nvcc" ] || version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    if [ "${version%%.*}" = "${cuda%%.*}" ]; then
        operators=cuda
        cuda_home=$place
        return
    fi
    remark=("torch is built for CUDA $cuda and there is a GPU, but $([ -n "$nvcc" ] && echo "$nvcc is of CUDA $version." || echo 'no nvcc was found (CUDA_HOME, PATH, /usr/local/cuda).')"
        "mmcv therefore has its CPU operators only: detectors that use RoIAlign or NMS cannot be trained on the GPU."
        "To mend it: install the CUDA toolkit ${cuda%%.*}.x, set CUDA_HOME to it, run 'make setup' again; mmcv is then compiled anew.")
}


# ---- all of it

check_python
if ! { [ -e "$venv_python" ] && choose_operators 2>/dev/null && done_before mmcv mmcv_stamp; }; then
    check_compiler
fi

mkdir -p "$state"
if command -v flock >/dev/null; then
    # Held by the step's processes too: a pip that outlives a killed set-up is waited for, not run twice.
    exec 9>"$state/lock"
    until flock -w 15 9; do say "another set-up is at work in $venv; waiting for it ($SECONDS s)"; done
fi

once venv venv_stamp "making the environment $venv with $python; a few seconds" make_venv
once tools tools_stamp 'installing the build tools; half a minute' install_tools
once torch torch_stamp 'installing torch; 1 to 5 minutes, several gigabytes where it is a CUDA build' install_torch
once openmmlab openmmlab_stamp 'installing MMEngine and MMDetection; 1 to 2 minutes' install_openmmlab
choose_operators
if [ "$operators" = cuda ]; then
    takes="compiling mmcv's CPU and CUDA operators: tens of minutes on few cores"
else
    takes="compiling mmcv's operators: 5 to 10 minutes on two cores"
fi
once mmcv mmcv_stamp "$takes, once; pip keeps the result, and another environment then takes it in seconds" install_mmcv
once package package_stamp 'installing mmgkd itself, editable, with what its demo and tests use; half a minute' install_package

[ ${#remark[@]} -eq 0 ] || say "${remark[@]}"
say "$venv is ready: Python $(minor_version "$venv_python"), $(installed torch onedl-mmcv onedl-mmdetection)with mmcv's $operators operators"
