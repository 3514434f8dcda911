# The doors to the build; Meson does the work. `make` alone lists them.
#
#     make run ARGS='--listen 127.0.0.1:9000'  make bench BENCH=log  make fuzz FUZZ=event SECONDS=300
#
# build/release is what runs and is measured; tools/test keeps its own trees beside it.

JOBS ?= $(shell nproc)
BENCH ?=
FUZZ ?=
SECONDS ?= 60
ARGS ?=
export JOBS

.PHONY: help build run test lint bench demo soak fuzz clean

help:
	@echo 'make build    build/fanfared (the server) and build/fanfare (the command line)'
	@echo 'make run      build, then serve on the embedded default and say where'
	@echo 'make test     everything: plain, under ASan and UBSan, the threaded tests under TSan;'
	@echo '              the bus by gcc and by clang'
	@echo 'make lint     clang-format, clang-tidy, tools/tidy'
	@echo 'make bench    all benchmarks, or BENCH=name'
	@echo 'make demo     329 real deliveries, a kill -9 half-way, nothing lost'
	@echo 'make soak     the tests with full counts, fuzzing, and a fresh minimal Debian'
	@echo 'make fuzz     all fuzz targets for SECONDS=60 each, or FUZZ=name'

build:
	@tools/setup build
	@test -f build/release/build.ninja || meson setup build/release -Dtests=false
	@ninja -C build/release -j $(JOBS)
	@ln -sfn release/src/server/fanfared build/fanfared
	@ln -sfn release/src/cli/fanfare build/fanfare

run: build
	@exec build/fanfared $(ARGS)

test:
	@tools/setup test
	@tools/test

lint:
	@tools/setup test
	@tools/lint

bench: build
	@tools/bench $(BENCH)

demo: build
	@tools/setup test
	@tools/demo

soak:
	@tools/setup test
	@FANFARE_SOAK=1 tools/test
	@tools/fuzz --seconds 300
	@tools/fresh

fuzz:
	@tools/setup test
	@tools/fuzz --seconds $(SECONDS) $(FUZZ)

clean:
	@rm -rf build
