#!/usr/bin/env python3
"""Draws the training curve of one or more runs as an SVG file.

usage: scripts/plot_curve.py OUT.svg RUN_FOLDER_OR_METRICS.jsonl...

Bits per byte against tokens; each run's line is the mean over windows of 1/200 of its length, its held-out figures are dots.
"""
import json
import pathlib
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 20, 20, 50
COLOURS = ["#1b6ca8", "#c1440e", "#2e8b57", "#7b4fa3", "#8a6d00", "#444444"]


def read(path):
    path = pathlib.Path(path)
    file = path / "metrics.jsonl" if path.is_dir() else path
    training, held_out = [], []
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        if "bits_per_byte" in entry:
            training.append((entry["tokens"], entry["bits_per_byte"]))
        elif "valid_bits_per_byte" in entry:
            held_out.append((entry["tokens"], entry["valid_bits_per_byte"]))
    if not training and not held_out:
        sys.exit(f"{file}: has no bits per byte")
    size = max(1, len(training) // 200)
    windows = [training[i : i + size] for i in range(0, len(training), size)]
    means = [(w[-1][0], sum(bits for _, bits in w) / len(w)) for w in windows]
    return (path.name if path.is_dir() else path.parent.name), means, held_out


def ticks(low, high, count):
    step = (high - low) / count
    magnitude = 10 ** len(str(int(step))) / 10 if step >= 1 else 0.1
    step = max(magnitude, round(step / magnitude) * magnitude)
    first = -(-low // step) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def draw(runs):
    most_tokens = max(tokens for _, means, held_out in runs for tokens, _ in means + held_out)
    values = [bits for _, means, held_out in runs for _, bits in means[2:] + held_out]
    low, high = min(values) - 0.05, min(max(values), min(values) + 2.0) + 0.05

    def x(tokens):
        return LEFT + tokens / most_tokens * (WIDTH - LEFT - RIGHT)

    def y(bits):
        return TOP + (high - min(bits, high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for bits in ticks(low, high, 8):
        out.append(f'<path d="M{LEFT} {y(bits):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(bits) + 4:.1f}" text-anchor="end">{bits:.2f}</text>')
    for tokens in ticks(0, most_tokens, 8):
        out.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tokens / 1e6:g}M</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">tokens of training</text>')
    out.append(f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" text-anchor="middle">bits per byte</text>')
    for i, (name, means, held_out) in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x(tokens):.1f},{y(bits):.1f}" for tokens, bits in means)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x(tokens):.1f}" cy="{y(bits):.1f}" r="3" fill="{colour}"/>' for tokens, bits in held_out]
        out.append(f'<text x="{WIDTH - RIGHT - 8}" y="{TOP + 16 + 16 * i}" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join(out + ["</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    pathlib.Path(sys.argv[1]).write_text(draw([read(path) for path in sys.argv[2:]]))
