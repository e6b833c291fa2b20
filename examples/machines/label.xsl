<?xml version="1.0" encoding="UTF-8"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml"/>
  <!-- Calls itself as often as the message says: a million times is more than it gets. -->
  <xsl:template match="/label">
    <lines>
      <xsl:call-template name="line">
        <xsl:with-param name="left" select="@copies"/>
      </xsl:call-template>
    </lines>
  </xsl:template>
  <xsl:template name="line">
    <xsl:param name="left"/>
    <xsl:if test="$left &gt; 0">
      <line><xsl:value-of select="."/></line>
      <xsl:call-template name="line">
        <xsl:with-param name="left" select="$left - 1"/>
      </xsl:call-template>
    </xsl:if>
  </xsl:template>
</xsl:stylesheet>
