"""Everything in the documentation that a program writes, made again: `python -m docs`.

Measures the demo family (half a minute; on a quiet machine, please), draws the picture, writes the tables, and
runs the examples for their answers. What each compression technique does takes minutes to measure, and is made apart:
`python -m docs.techniques`. So is the picture of the dashboard, which needs a Prometheus: `python -m docs.panels`.
"""

from docs import examples, figures, generate, measure

measure.main()
figures.main()
generate.main([])
examples.main()
