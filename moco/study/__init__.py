"""The paper's comparisons, as data: what is compared, what came of each run, and what the numbers say."""
