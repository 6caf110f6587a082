"""The study of the embedded benchmark: what its table of runs says, with intervals that contain problems and training
seeds.

`gather` packs the runs of a sweep into two small files; everything else reads those alone, so that anyone can make
every number of the study again without training anything. `python -m benchmarks.study` writes the report, the picture
and the claims."""
