"""The score: fixed prompts and seeds, judged on sealed photos against a real-vs-real ceiling and stranger floors."""
