#!/usr/bin/env bash
# The C kernels under tools that see what no result shows: sanitize.sh address | valgrind [ARGUMENTS OF PYTEST...]
#
# address   builds the kernels with gcc's address and undefined-behaviour sanitizers and runs the tests of the kernels
# valgrind  runs fuzz_nets.py, a few nets of all kinds, under memcheck with the kernels that are installed
#
# Both with guard lines around and within arenas (FASTMLP_DEBUG=1); under the address sanitizer they are poisoned, so that
# one load too far is an error. Arguments replace the tests that are run, or valgrind's number of nets.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=${1:-}
shift || true
python=${PYTHON:-python3}
export FASTMLP_DEBUG=1 FASTMLP_REQUIRE_C=1 PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1

with_address_sanitizer() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/objects"
    cp -r src/fastmlp "$work/fastmlp"
    rm -f "$work"/fastmlp/_fastmlp_c.*
    "$python" csrc/build_fastmlp.py emit "$work/module.c"
    local flags includes
    read -ra flags < <("$python" csrc/build_fastmlp.py)
    includes=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    # -O1: reports name lines, and the tiles compile in a third of the time.
    flags+=(-O1 -g1 -fno-omit-frame-pointer)
    # AVX-512 takes half of the time, for nothing where it cannot run.
    local checks="-fsanitize=address,undefined -fno-sanitize-recover=all" unused='*avx512*'
    ! grep -qsw avx512f /proc/cpuinfo || unused=none
    # shellcheck disable=SC2016
    printf '%s\n' "$work/module.c" csrc/*.c csrc/isa/*.c | xargs -P "$(nproc)" -I{} bash -c '
        [[ $1 == $2 ]] && checks= || checks=$3
        gcc "${@:5}" $checks -c "$1" -o "$(mktemp -p "$4" XXXXXX.o)"
    ' compile {} "$unused" "$checks" "$work/objects" "${flags[@]}" -fPIC -Icsrc -I"$includes"
    gcc -shared -pthread -fsanitize=address,undefined "$work"/objects/*.o -o "$work/fastmlp/_fastmlp_c.abi3.so"

    local tests=("$@")
    if [ ${#tests[@]} = 0 ]; then
        tests=(tests/test_forward.py tests/test_gradients.py tests/test_step.py tests/test_optimizers.py
            tests/test_losses.py tests/test_regularization.py tests/test_fuzz_nets.py -k "not numba and not numpy and not both")
    fi
    # Python itself never frees all; and numpy asks for more than there is, to see MemoryError, in some tests.
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)" \
        PYTHONPATH="$work${PYTHONPATH:+:$PYTHONPATH}" \
        "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
}

with_valgrind() {
    # It knows no AVX-512.
    FASTMLP_ISA=avx2 PYTHONPATH="tests${PYTHONPATH:+:$PYTHONPATH}" \
        valgrind --quiet --error-exitcode=99 --suppressions=tests/valgrind.supp --num-callers=12 \
        "$python" tests/fuzz_nets.py "${1:-12}" c
}

case $tool in
address) with_address_sanitizer "$@" ;;
valgrind) with_valgrind "$@" ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
