"""Simulated models and a calculator that own_pipeline.py imports; not an example."""

import ast
import operator
import random
import re

from optuna_agenttts.llm import Completion, Usage

NUMBER = re.compile(r"\d+")
SIGNS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(formula):
    """Evaluate a formula of numbers and + - * /; return None if it is anything else."""

    def value(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        return SIGNS[type(node.op)](value(node.left), value(node.right))

    try:
        return f"{value(ast.parse(formula or '', mode='eval').body):.12g}"
    # Formulas come from models: invalid Python, unpaired surrogates, thousands of brackets.
    except (ValueError, SyntaxError, LookupError, AttributeError, ArithmeticError):
        return None
    except (RecursionError, MemoryError):
        return None


class OfflineModel:
    """Simulated model that answers known questions, right with a given probability."""

    def __init__(self, answers, competence):
        self.answers, self.competence = answers, competence

    async def complete(self, request, *, seed):
        """Write the right answer, or a wrong one."""
        prompt = request.messages[-1].content
        question, _, ask = prompt.partition("\n")
        rng = random.Random(f"{seed} {question} {ask}")
        text = self.answers.get(question, "OK")
        if "sum" in ask:
            text = self._sum(question) or "none"
        if rng.random() > self.competence:
            text = rng.choice(["42", "none", "1 + 1", "7"])
        return Completion(text, Usage(len(prompt) // 4, len(text) // 4 + 1))

    def _sum(self, question):
        """Find a formula for the answer by trying combinations of the question's numbers."""
        numbers = NUMBER.findall(question)
        sums = [f"{a} {sign} {b}" for a in numbers for b in numbers for sign in "*/"]
        sums += [f"{a} * {b} + {c}" for a in numbers for b in numbers for c in numbers]
        sums += [f"{c} - {a} * {b}" for a in numbers for b in numbers for c in numbers]
        return next((text for text in sums if calculate(text) == self.answers[question]), None)


def make_offline_models(questions, task):
    """Create a simulated model for each model of a task; later ones are better."""
    answers = {" ".join(q["question"].split()): q["answer"] for q in questions}
    names = [model.name for model in task.stages[0].models]
    return {name: OfflineModel(answers, 0.5 + 0.25 * rank) for rank, name in enumerate(names)}
