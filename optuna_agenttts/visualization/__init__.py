"""Figures of a study, as Plotly figures; Plotly is imported when the first one is made."""
