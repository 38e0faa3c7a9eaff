"""The dashboards as pages of HTML: what their queries give, drawn in Grafana's grid. For eyes where no Grafana runs, and for its builders.

``query`` does to a query what Grafana does before it sends it, ``source`` asks the database and Prometheus, ``figures`` draws a panel, ``pages`` puts the
panels on a page.
"""
