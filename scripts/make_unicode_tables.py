#!/usr/bin/env python3
"""Writes harmonic/tokenizer/unicode_tables.cc: for each code point, whether it is a letter, a number or a space.

Letters are the general categories L*, numbers N*, spaces the property White_Space. The version of Unicode is the one
of this Python's unicodedata. Run it from the root of the repository:

    python3 scripts/make_unicode_tables.py > harmonic/tokenizer/unicode_tables.cc
"""
import unicodedata

OTHER, LETTER, NUMBER, SPACE = range(4)
BLOCK = 128  # code points a block: 2 bits each, 4 words of 64 bits


def char_class(code):
    # White_Space is the three separator categories and these controls.
    if 0x09 <= code <= 0x0D or code == 0x85:
        return SPACE
    category = unicodedata.category(chr(code))
    return {"L": LETTER, "N": NUMBER, "Z": SPACE}.get(category[0], OTHER)


def main():
    classes = [char_class(code) for code in range(0x110000)]
    last = max(code for code, kind in enumerate(classes) if kind != OTHER)
    block_count = last // BLOCK + 1
    blocks, index = {}, []
    for block in range(block_count):
        content = tuple(classes[block * BLOCK : (block + 1) * BLOCK])
        index.append(blocks.setdefault(content, len(blocks)))
    assert len(blocks) <= 256

    print("// Made by scripts/make_unicode_tables.py; change that instead.")
    print('#include "harmonic/tokenizer/unicode_classes.h"\n')
    print("// clang-format off")
    print("namespace harmonic {\n")
    print(f'const char* const unicode_version = "{unicodedata.unidata_version}";\n')
    print(f"static_assert(unicode_block_count == {block_count}, \"unicode_classes.h states the table's size\");\n")
    print("const uint8_t unicode_block_index[unicode_block_count] = {")
    for start in range(0, block_count, 32):
        print("    " + ",".join(str(i) for i in index[start : start + 32]) + ",")
    print("};\n")
    print("const uint64_t unicode_blocks[][4] = {")
    for content in blocks:
        words = []
        for word in range(4):
            bits = sum(kind << (2 * i) for i, kind in enumerate(content[word * 32 : word * 32 + 32]))
            words.append(f"0x{bits:x}")
        print("    {" + ",".join(words) + "},")
    print("};\n")
    print("}  // namespace harmonic")


if __name__ == "__main__":
    main()
