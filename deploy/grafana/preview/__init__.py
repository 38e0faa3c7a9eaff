"""The dashboards as HTML pages: the results of their queries, drawn in Grafana's grid. For machines without Grafana, and for the developers
of dashboards.

``query`` expands a query as Grafana does before it sends it, ``source`` queries the database and Prometheus, ``figures`` draws a panel,
``pages`` puts the panels on a page.
"""
