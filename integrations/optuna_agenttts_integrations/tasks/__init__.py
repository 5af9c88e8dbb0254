"""The task families of AgentTTS (arXiv 2508.00890): data, prompts, parsers and metrics."""

from optuna_agenttts_integrations.tasks.benchmark import LLAMA, QWEN, Benchmark
from optuna_agenttts_integrations.tasks.kg_qa import (
    TripleQuestion,
    cwq,
    triple_benchmark,
    web_qsp,
)
from optuna_agenttts_integrations.tasks.passages import PassageQuestion
from optuna_agenttts_integrations.tasks.records import sample_path
from optuna_agenttts_integrations.tasks.requirements import Software
from optuna_agenttts_integrations.tasks.retrieval_qa import (
    hotpot_qa,
    passage_benchmark,
    two_wiki,
)
from optuna_agenttts_integrations.tasks.software_development import chat_dev
from optuna_agenttts_integrations.tasks.task_automation import Tool, ToolRequest, task_bench
from optuna_agenttts_integrations.tasks.tool_scores import task_bench_scores

__all__ = [
    "LLAMA",
    "QWEN",
    "Benchmark",
    "PassageQuestion",
    "Software",
    "Tool",
    "ToolRequest",
    "TripleQuestion",
    "chat_dev",
    "cwq",
    "hotpot_qa",
    "passage_benchmark",
    "sample_path",
    "task_bench",
    "task_bench_scores",
    "triple_benchmark",
    "two_wiki",
    "web_qsp",
]
