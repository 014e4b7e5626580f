#!/usr/bin/env bash
# What the repository keeps of an experiment: the page, its tables and every figure, without weights and paths.
#   usage: experiments/keep_results.sh HARMONIC EXPERIMENT DESTINATION DATA
# EXPERIMENT is the folder that `harmonic experiment --out` filled; DATA, the folder of the texts, is written as $DATA.
set -euo pipefail

harmonic=$1 experiment=${2%/} destination=$3 data=$(realpath "$4")
mkdir -p "$destination"
name=$(basename "$experiment")
"$harmonic" report "$experiment" --out "$destination/$name.html" --markdown "$destination/$name.md" --csv "$destination/$name.csv"
sed -i "s#$data/#\$DATA/#g; s#$(realpath "$experiment")#$name#g" "$destination/$name".{html,md,csv}
