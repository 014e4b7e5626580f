# Harmonic: `make demo` and `make test` do everything a fresh machine needs.
PRESET ?= release
TESTS ?= .
BUILD = build/$(PRESET)

.PHONY: all setup configure build test demo bench format clean
all: build

setup:
	@scripts/setup.sh

configure: setup
	@cmake --preset $(PRESET) -DCMAKE_INSTALL_MESSAGE=NEVER > build.log 2>&1 || (cat build.log; rm -f build.log; exit 1)
	@rm -f build.log

build: configure
	@cmake --build $(BUILD)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j 2 -R '$(TESTS)'

demo: configure
	@cmake --build $(BUILD) --target harmonic
	@scripts/demo.sh $(BUILD)/bin/harmonic

bench: build
	@scripts/bench.sh $(BUILD)/bin

format:
	@git ls-files '*.h' '*.cc' '*.cu' | xargs clang-format -i

clean:
	@rm -rf build
