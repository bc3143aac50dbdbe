#!/usr/bin/env bash
# The C kernels under tools that see what no result shows: sanitize.sh address [ARGUMENTS OF PYTEST...] | valgrind
#
# address   builds the kernels with gcc's address and undefined-behaviour sanitizers and runs the tests of the kernels
# valgrind  runs valgrind_worker.py under memcheck, with the kernels that are installed
#
# Both with guard lines around and within arenas (FASTMLP_DEBUG=1); under the address sanitizer they are poisoned, so that
# one load too far is an error. Arguments of pytest replace the tests that are run. The build stays in SANITIZE_FOLDER, if
# that is set, and is used again.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=${1:-}
shift || true
python=${PYTHON:-python3}
export FASTMLP_DEBUG=1 FASTMLP_REQUIRE_C=1 PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1

with_address_sanitizer() {
    local work=${SANITIZE_FOLDER:-} flags includes numpy
    if [ -z "$work" ]; then
        work=$(mktemp -d)
        # shellcheck disable=SC2064
        trap "rm -rf '$work'" EXIT
    fi
    mkdir -p "$work/objects"
    rm -rf "$work/fastmlp"
    cp -r src/fastmlp "$work/fastmlp"
    rm -f "$work"/fastmlp/_{fastmlp_c,bound_call}.*.so
    "$python" csrc/build_fastmlp.py emit "$work/module.c"
    read -ra flags < <("$python" csrc/build_fastmlp.py)
    includes=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    numpy=$("$python" -c 'import numpy; print(numpy.get_include())')
    # -O1: the tiles compile in a third of the time of -O3, or of -O0.
    flags+=(-O1 -g1 -fno-omit-frame-pointer -fPIC -Icsrc -I"$includes")
    # AVX-512 takes half of the time, for nothing where it cannot run.
    local checks="-fsanitize=address,undefined -fno-sanitize-recover=all" unused='*avx512*'
    ! grep -qsw avx512f /proc/cpuinfo || unused=none
    # shellcheck disable=SC2016
    printf '%s\n' "$work/module.c" csrc/*.c csrc/isa/*.c | xargs -P "$(nproc)" -I{} bash -c '
        object=$4/$(basename "$1" .c).o
        if [ -e "$object" ] && [ -z "$(find csrc -newer "$object")" ]; then exit; fi
        [[ $1 == $2 ]] && checks= || checks=$3
        gcc "${@:5}" $checks -c "$1" -o "$object.new" && mv "$object.new" "$object"
    ' compile {} "$unused" "$checks" "$work/objects" "${flags[@]}"
    gcc -shared -pthread -fsanitize=address,undefined "$work"/objects/*.o -o "$work/fastmlp/_fastmlp_c.abi3.so"
    # shellcheck disable=SC2086
    gcc -shared "${flags[@]}" $checks "-I$numpy" -DPy_LIMITED_API=0x030b0000 csrc/python/bound_call.c -o "$work/fastmlp/_bound_call.abi3.so"

    local tests=("$@")
    if [ ${#tests[@]} = 0 ]; then
        tests=(tests/test_forward.py tests/test_predictor.py tests/test_gradients.py tests/test_step.py tests/test_optimizers.py
            tests/test_losses.py tests/test_regularization.py tests/test_fuzz_nets.py tests/test_repeated_calls.py -k "not numba and not numpy and not both and not ten_thousand")
    fi
    # Python itself never frees all; and numpy asks for more than there is, to see MemoryError, in some tests. Reports, which
    # end the process, would be lost with what pytest captures. (test_guards.py overruns on purpose: see it reported.)
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)" \
        PYTHONPATH="$work${PYTHONPATH:+:$PYTHONPATH}" \
        "$python" -m pytest -q --capture=sys -p no:cacheprovider "${tests[@]}"
}

with_valgrind() {
    local suppressions object kind
    suppressions=$(mktemp)
    # shellcheck disable=SC2064
    trap "rm -f '$suppressions'" EXIT
    # What others do, by themselves or through valgrind's own memcpy. Python and libc read whole words on purpose.
    for object in '*python3*' '*/ld-*' '*/libc*' '*/libm*' '*/numpy/*' '*/numpy.libs/*' '*/scipy/*' '*/scipy.libs/*' '*/_cffi_backend*'; do
        for kind in Cond Addr1 Addr2 Addr4 Addr8 Addr16 Addr32 Value1 Value2 Value4 Value8 Value16 Value32; do
            printf '{\n others\n Memcheck:%s\n obj:%s\n}\n' "$kind" "$object"
            printf '{\n others\n Memcheck:%s\n obj:*vgpreload*\n obj:%s\n}\n' "$kind" "$object"
        done
    done >"$suppressions"
    # It knows no AVX-512.
    FASTMLP_ISA=avx2 valgrind --quiet --error-exitcode=99 --suppressions="$suppressions" --num-callers=12 \
        "$python" tests/valgrind_worker.py
}

case $tool in
address) with_address_sanitizer "$@" ;;
valgrind) with_valgrind "$@" ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
