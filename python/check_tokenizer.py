#!/usr/bin/env python3
"""Holds a tokenizer.json written by Harmonic against the Hugging Face library (pip install tokenizers).

    check_tokenizer.py TOKENIZER_JSON TEXT IDS

TEXT is a file of UTF-8, IDS the ids that Harmonic gives it, separated by white space. Checks that the library loads
the file, gives the same ids, and decodes them to the same text. Exits 1 with the first difference otherwise.
"""
import sys

from tokenizers import Tokenizer


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    tokenizer_path, text_path, ids_path = sys.argv[1:]
    with open(text_path, encoding="utf-8", newline="") as file:
        text = file.read()
    with open(ids_path, encoding="ascii") as file:
        ours = [int(number) for number in file.read().split()]
    tokenizer = Tokenizer.from_file(tokenizer_path)
    theirs = tokenizer.encode(text, add_special_tokens=False).ids
    for at, (our, their) in enumerate(zip(ours, theirs)):
        if our != their:
            context = tokenizer.decode(theirs[max(0, at - 5) : at])
            sys.exit(f"token {at}, after {context!r}: Harmonic has {our}, the library {their}")
    if len(ours) != len(theirs):
        sys.exit(f"Harmonic has {len(ours)} tokens, the library {len(theirs)}")
    if tokenizer.decode(theirs, skip_special_tokens=False) != text:
        sys.exit("the library does not decode the ids to the text")
    print(f"{tokenizer_path}: {len(theirs)} tokens alike")


if __name__ == "__main__":
    main()
