"""The explorer's engine: state, session, worker, generated code, what a frozen page needs. No widget, no Bokeh."""
