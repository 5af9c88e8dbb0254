from optuna_agenttts import AgentTTSSampler
from optuna_agenttts import Model
from optuna_agenttts import recommend
from optuna_agenttts import Stage
from optuna_agenttts import Task


__all__ = ["AgentTTSSampler", "Model", "Stage", "Task", "recommend"]
